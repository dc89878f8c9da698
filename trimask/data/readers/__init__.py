"""Readers: one file format each, behind one interface (`base.Reader`), found by `detect`."""
