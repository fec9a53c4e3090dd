"""Documents: reading files, keeping them with their versions, and cutting them into chunks."""
