"""One module per dataset, and the two for a user's own: raw folder -> samples."""
