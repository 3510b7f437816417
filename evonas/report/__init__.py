"""From a history to figures and one HTML page."""
