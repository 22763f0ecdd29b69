"""Charts said once, drawn for the page by plotly.js and for paper by matplotlib."""
