"""`escalade policy` and `escalade record`: fit, certify, judge, explain policies on recorded data."""
