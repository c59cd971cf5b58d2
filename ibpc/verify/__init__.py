"""Proving and falsifying: properties, attacks, searches, data sets, certificates and their checker."""
