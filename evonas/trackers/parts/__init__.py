"""What the MLflow tracker is made of."""
