"""What tests of tiers, ours and users', need: models made on the spot and fakes of the ports."""
