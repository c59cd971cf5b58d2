"""Proving and falsifying: attacks, and the certification of data sets."""
