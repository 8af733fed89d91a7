() => {
  // What the page does without the server: reads out its status, and moves the player.
  const player = () => document.querySelector("#ila-video video");

  const announce = () => {
    const line = document.getElementById("ila-status");
    if (line && line.getAttribute("role") !== "status") {
      line.setAttribute("role", "status");
      line.setAttribute("aria-live", "polite");
      line.setAttribute("aria-atomic", "true");
    }
  };

  const say = (words) => {
    const line = document.querySelector("#ila-status .prose") || document.getElementById("ila-status");
    const paragraph = document.createElement("p");
    paragraph.className = "ila-status";
    paragraph.textContent = words;
    if (line) line.replaceChildren(paragraph); // the next answer replaces it
  };

  // Gradio's own errors, such as that all is busy, are for the eye only
  const NOT_PLAYED = "This browser does not play this kind of file. The model reads it all the same.";
  const repeat = (node) => {
    const told = ".toast-message-text";
    const words = [...(node.querySelectorAll?.(told) ?? []), ...(node.matches?.(told) ? [node] : [])].pop()?.textContent;
    if (words) say(words.trim() === "Video not playable" ? NOT_PLAYED : `Not done: ${words.trim()}`);
  };

  const seek = (seconds) => {
    const video = player();
    if (!video) return say("There is no player to move: the video was named by its path, or has been taken away.");
    if (video.error) return say("This browser cannot play the file; the times hold all the same.");
    video.currentTime = seconds;
    video.scrollIntoView({ block: "nearest", behavior: "auto" });
  };

  document.addEventListener("click", (event) => {
    if (event.target.closest(".ila-ask")) return say("The question is sent; the answer will be told here.");
    const button = event.target.closest("[data-seek]");
    if (button) return seek(Number(button.dataset.seek));
    const plot = event.target.closest(".ila-plot");
    if (plot) {
      const box = plot.getBoundingClientRect();
      const [left, right] = [Number(plot.dataset.left), Number(plot.dataset.right)];
      const share = ((event.clientX - box.left) / box.width - left) / (right - left);
      if (share >= 0 && share <= 1) seek(share * Number(plot.dataset.end) + Number(plot.dataset.offset));
    }
  });

  // the line in the picture of the timeline follows the player
  document.addEventListener("timeupdate", (event) => {
    const plot = document.querySelector(".ila-plot");
    if (!plot || event.target !== player()) return;
    const [left, right] = [Number(plot.dataset.left), Number(plot.dataset.right)];
    const share = (event.target.currentTime - Number(plot.dataset.offset)) / Number(plot.dataset.end);
    const cursor = plot.querySelector(".ila-cursor");
    cursor.hidden = !(share >= 0 && share <= 1);
    cursor.style.left = `${100 * (left + share * (right - left))}%`;
  }, true);

  document.documentElement.lang = "en";
  announce();
  new MutationObserver((changes) => {
    announce();
    for (const change of changes) change.addedNodes.forEach(repeat);
  }).observe(document.body, { childList: true, subtree: true });
}
