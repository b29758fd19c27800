"""The MCP door: in memory, over real stdio and HTTP, and against the public inspector and suite."""
