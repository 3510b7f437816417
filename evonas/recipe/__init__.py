"""What the user asked for: a recipe, its components and their options."""
