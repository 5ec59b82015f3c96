"""What escalade costs beyond the libraries it stands on, as ratios within one run."""
