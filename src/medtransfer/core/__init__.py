"""What all rooms stand on: whole files, schemas, named random streams, downloads, progress, errors. No medicine."""
