"""Images that restore themselves."""
