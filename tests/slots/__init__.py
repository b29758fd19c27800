"""Tests of runner/slots/."""
