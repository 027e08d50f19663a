"""Read, check and encode pictures, sounds and videos."""
