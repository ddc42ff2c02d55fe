"""codecflow-tiny: a real small vision-language model, assembled from two published parts and a part trained here."""
