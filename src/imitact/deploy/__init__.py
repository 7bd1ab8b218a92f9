"""Running a policy where there is no torch: one file, with proof that it answers the same."""
