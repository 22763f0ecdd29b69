"use strict";
(() => {
  const table = document.querySelector("table");
  const form = document.querySelector(".search");
  if (!table) return;
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];

  /** What a row is sorted by; what is missing comes last whichever way. */
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value ?? cell.textContent.trim();
  };

  function sort(column, ascending) {
    const numbers = headings[column].dataset.sort === "number";
    const sign = ascending ? 1 : -1;
    const compare = (a, b) => {
      if (!a[0] || !b[0]) return (a[0] ? 0 : 1) - (b[0] ? 0 : 1);
      return sign * (numbers ? Number(a[0]) - Number(b[0]) : a[0].localeCompare(b[0], "en", { numeric: true }));
    };
    const rows = [...body.rows].map((row) => [key(row, column), row]).sort(compare);
    body.append(...rows.map(([, row]) => row));
    for (const heading of headings) heading.removeAttribute("aria-sort");
    headings[column].setAttribute("aria-sort", ascending ? "ascending" : "descending");
  }

  headings.forEach((heading, column) => {
    if (!heading.dataset.sort) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    button.addEventListener("click", () => sort(column, heading.getAttribute("aria-sort") !== "ascending"));
    heading.replaceChildren(button);
  });

  const words = new Map([...body.rows].map((row) => [row, row.textContent.toLowerCase()]));
  const query = form.querySelector("input");
  const shown = form.querySelector("output");

  /** Only rows that hold every word stay. */
  function search() {
    const wanted = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const [row, text] of words) {
      row.hidden = !wanted.every((word) => text.includes(word));
      count += row.hidden ? 0 : 1;
    }
    shown.textContent = wanted.length ? `${count} of ${words.size}` : "";
    const hash = query.value ? `#${encodeURIComponent(query.value)}` : location.pathname;
    history.replaceState(null, "", hash);
  }

  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  query.addEventListener("input", search);
  if (location.hash) {
    query.value = decodeURIComponent(location.hash.slice(1));
    search();
  }
})();
