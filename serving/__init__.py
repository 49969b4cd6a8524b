"""The champion in service: an API, and a page that talks to it."""
