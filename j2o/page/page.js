"use strict";

// What a <script type="application/json"> holds; null where the page has none of that name.
function embedded(id) {
  const element = document.getElementById(id);
  return element && JSON.parse(element.textContent);
}

// Draws the graph once its section is near to what is seen.
function drawWhenNear() {
  const place = document.getElementById("picture");
  const data = embedded("graph-data");
  if (!place || !data) return;
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    drawGraph(place, data);
  }, { rootMargin: "400px" });
  observer.observe(place);
}

drawWhenNear();
