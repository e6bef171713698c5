"use strict";
// draw the figures
// nothing may leave the page: plotly's button that uploads a figure is off
const options = {
  responsive: true, displaylogo: false, showSendToCloud: false, modeBarButtonsToRemove: ["lasso2d", "select2d"],
};
const drawn = JSON.parse(document.getElementById("figures").textContent);
for (const [name, figure] of Object.entries(drawn)) {
  Plotly.newPlot(name, figure.data, figure.layout, options);
}
// sort a table by the column whose head is pressed
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const column = head.cellIndex, down = head.getAttribute("aria-sort") === "ascending";
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const rows = [...body.rows].sort((a, b) => {
      const one = key(a), two = key(b), x = Number(one), y = Number(two);
      return (one !== "" && two !== "" && !Number.isNaN(x) && !Number.isNaN(y)) ? x - y : one.localeCompare(two);
    });
    body.append(...(down ? rows.reverse() : rows));
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  });
}
// keep the rows that hold what is typed
const search = document.getElementById("search");
if (search) {
  const rows = [...document.querySelectorAll("#labels tbody tr")];
  search.addEventListener("input", () => {
    const wanted = search.value.toLowerCase();
    let left = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      left += row.hidden ? 0 : 1;
    }
    document.getElementById("found").textContent = wanted ? `${left} of ${rows.length}` : "";
  });
}
document.documentElement.dataset.ready = "yes";
