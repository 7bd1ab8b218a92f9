"""The types that every part of imitact shares, and what follows from them; needs numpy alone."""
