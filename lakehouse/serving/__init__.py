"""Serving of the champion: the prediction API, its client, and the server of a project's web page."""
