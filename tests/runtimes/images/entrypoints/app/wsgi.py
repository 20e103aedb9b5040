"""The smallest application for uWSGI."""


def application(_environ, start_response):
    """Answer each request alike."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]
