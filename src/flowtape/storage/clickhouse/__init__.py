"""The store on ClickHouse, shared by many processes."""
