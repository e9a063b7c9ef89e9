"""Results that travel: packs of finished runs, joined across labs, shown on a site, and re-run by others."""
