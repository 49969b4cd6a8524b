"""Serving of the champion: the prediction API and the web page that calls it."""
