// Draws the graph of `picture.document` into an element; page.js calls it when the section comes near.
function drawGraph(element, data) {
  element.textContent = `${data.nodes.length} nodes, ${data.edges.length} edges`;
}
