"""Tests of the spool, the worker and the daemon, on real files and a fake device."""
