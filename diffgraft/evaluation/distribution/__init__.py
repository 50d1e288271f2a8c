"""How far synthetic images are from real ones: KID, FID, precision, recall, density, coverage."""
