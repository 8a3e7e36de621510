"""kimiflow against an authorization server that this project did not write: django-oauth-toolkit."""
