"""Tests of the composer: packs, assembly, audit, plans, and the packs that ship."""
