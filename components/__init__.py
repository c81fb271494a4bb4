"""What happens to data and models before they serve: one folder a component."""
