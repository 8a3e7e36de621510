"""What the site serves: the toolkit's URLs as they come, a login, and one API that wants an access token."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.views import LoginView
from django.http import JsonResponse
from django.urls import include, path
from oauth2_provider.decorators import protected_resource_metadata


@protected_resource_metadata()
def profile(request: Any) -> JsonResponse:
    """Answer 200 to an access token that is good at this moment, and 401 to everything else."""
    person = request.resource_owner
    return JsonResponse({"user_id": str(person.pk), "nickname": person.get_username()})


urlpatterns = [
    path("login/", LoginView.as_view()),
    path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
    path("v1/me", profile),
]
