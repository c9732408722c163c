"""The PostgreSQL rim: the cached rows, the migrations of their table, and what asyncpg's failures mean to the core."""
