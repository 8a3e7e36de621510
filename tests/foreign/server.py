"""django-oauth-toolkit as a process of its own: the device flow (RFC 8628) as somebody else reads it.

    python -m tests.foreign.server --directory DIR [--port 0]

makes a database in DIR with one person and one public device-code application, prints one line of JSON once
it is listening on loopback, and serves until it is terminated or until its standard input closes. Whoever
started it holds the other end of that pipe, so the server does not outlive its parent, not even a killed one.

Only what any Django site must bring along is ours: settings and a login form here, an API in `urls.py`. Every
page and every reply of the protocol is the toolkit's own.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import threading
from contextlib import suppress
from pathlib import Path

import django
from django.conf import settings
from django.core.management import call_command
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application

CLIENT_ID = "foreign-device-client"
ACCESS_TOKEN_SECONDS = 60
INTERVAL_SECONDS = 1

LOGIN_PAGE = """
<!DOCTYPE html>
<html lang="en">
<title>Log in</title>
<h1>Log in</h1>
<form method="post">{% csrf_token %}{{ form.as_p }}<button type="submit">Log in</button></form>
</html>
"""


class Handler(WSGIRequestHandler):
    # Head and body of a reply are two writes; with Nagle's algorithm the second waits 40 ms for the first.
    disable_nagle_algorithm = True


def configure(url: str, database: Path) -> None:
    """Set Django up for a site at ``url`` whose rows are in ``database``."""
    settings.configure(
        DEBUG=False,
        SECRET_KEY=secrets.token_urlsafe(32),
        ALLOWED_HOSTS=["127.0.0.1"],
        ROOT_URLCONF=f"{__package__}.urls",
        LOGIN_URL="/login/",
        STATIC_URL="/static/",  # the toolkit's base page links a style sheet
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.staticfiles",
            "oauth2_provider",
        ],
        MIDDLEWARE=[
            # Sends the Content-Length without which Django's server closes the connection after each reply.
            "django.middleware.common.CommonMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        # A strong hash costs a third of a second at each login and protects nobody here.
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "OPTIONS": {
                    "loaders": [
                        ("django.template.loaders.locmem.Loader", {"registration/login.html": LOGIN_PAGE}),
                        "django.template.loaders.app_directories.Loader",
                    ],
                },
            },
        ],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(database),
                "OPTIONS": {
                    # A transaction that reads and then writes fails at once where another wrote in between;
                    # one that says from the start that it writes waits its turn.
                    "transaction_mode": "IMMEDIATE",
                    "timeout": 20,
                    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF",
                },
            },
        },
        # Tables are made from the models in one go: playing the migrations' history back takes seconds.
        MIGRATION_MODULES=dict.fromkeys(("auth", "contenttypes", "oauth2_provider")),
        LOGGING={
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"stderr": {"class": "logging.StreamHandler"}},
            "root": {"handlers": ["stderr"], "level": "INFO"},
        },
        OAUTH2_PROVIDER={
            "SCOPES": {"profile": "Read your profile"},
            "ACCESS_TOKEN_EXPIRE_SECONDS": ACCESS_TOKEN_SECONDS,
            "ROTATE_REFRESH_TOKEN": True,
            "REFRESH_TOKEN_REUSE_PROTECTION": True,
            "REFRESH_TOKEN_GRACE_PERIOD_SECONDS": 0,
            "DEVICE_FLOW_INTERVAL": INTERVAL_SECONDS,
            "OAUTH_DEVICE_VERIFICATION_URI": f"{url}/o/device/",
            "OAUTH_DEVICE_VERIFICATION_URI_COMPLETE": f"{url}/o/device/?user_code={{user_code}}",
        },
    )
    django.setup()


def populate() -> tuple[str, str]:
    """Make the tables, the person and the application; return the person's name and password."""
    # Models can only be imported once Django is set up.
    from django.contrib.auth import get_user_model
    from oauth2_provider.models import get_application_model

    call_command("migrate", run_syncdb=True, verbosity=0)
    name, password = "person", secrets.token_urlsafe(12)
    get_user_model().objects.create_user(name, password=password)
    application = get_application_model()
    application.objects.create(
        name="Foreign device client",
        client_id=CLIENT_ID,
        client_type=application.CLIENT_PUBLIC,
        authorization_grant_type=application.GRANT_DEVICE_CODE,
    )
    return name, password


def main() -> None:
    """Serve until terminated, or until standard input closes."""
    parser = argparse.ArgumentParser(description="django-oauth-toolkit's device flow on loopback")
    parser.add_argument("--directory", type=Path, required=True, help="an existing folder, for the database")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    arguments = parser.parse_args()

    # Bound first, because the settings name the port in the verification URI.
    with ThreadedWSGIServer(("127.0.0.1", arguments.port), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        database = arguments.directory / "foreign.db"
        configure(url, database)
        name, password = populate()
        server.set_app(get_wsgi_application())
        announcement = {
            "url": url,
            "client_id": CLIENT_ID,
            "device_authorization_endpoint": f"{url}/o/device-authorization/",
            "token_endpoint": f"{url}/o/token/",
            "revocation_endpoint": f"{url}/o/revoke_token/",
            "database": str(database),
            "person": {"name": name, "password": password},
        }
        print(json.dumps(announcement), flush=True)

        def stop_with_the_parent() -> None:
            # Not `sys.stdin.read()`: that holds a lock, which aborts an interpreter that ends meanwhile.
            while os.read(sys.stdin.fileno(), 1024):
                pass
            server.shutdown()

        threading.Thread(target=stop_with_the_parent, daemon=True).start()
        with suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
