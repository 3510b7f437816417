"""What several evaluation strategies share."""
