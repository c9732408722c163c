"""What the worker decides: pure values and one pipeline over three ports. Knows neither broker nor database."""
