"""Service registration and discovery for asyncio."""
