// A press of a button in the list of what was found asks the server to show that video.
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-hit]");
  if (button) trigger("select", { hit: Number(button.dataset.hit) });
});
