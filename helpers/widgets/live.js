// Shows the HTML of a run; while it runs, asks the kernel for the next frame once the last one is painted.

// The value of a slider over named stops is read out as its stop ("0.1"), not as the number of the stop ("4").
function speak(root) {
  const read = (slider) => {
    const text = slider.querySelector(".widget-readout")?.textContent;
    if (!text) return;
    for (const handle of slider.querySelectorAll(".noUi-handle, .ui-slider-handle"))
      if (handle.getAttribute("aria-valuetext") !== text) handle.setAttribute("aria-valuetext", text);
  };
  const watch = new MutationObserver((changes) => {
    new Set(changes.map(({ target }) => (target.closest ? target : target.parentElement)?.closest(".widget-slider")))
      .forEach((slider) => slider && read(slider));
  });
  const attributeFilter = ["aria-valuetext"];
  watch.observe(root, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter });
  root.querySelectorAll(".widget-slider").forEach(read);
  return watch;
}

function render({ model, el }) {
  const me = String(Math.random()); // several views of one model: each asks for itself
  let open = true, asked = false, painted = null, spoken = null;
  const paint = async (html) => {
    if (html === painted) return;
    el.innerHTML = painted = html;
    await Promise.all([...el.querySelectorAll("img")].map((image) => image.decode().catch(() => {})));
    await new Promise(requestAnimationFrame);
  };
  const ask = () => {
    if (open && !asked && model.get("running")) {
      asked = true;
      model.send({ ask: me });
    }
  };
  const answer = async (message) => {
    if (message.ask !== me) return;
    if (message.html !== null) await paint(message.html);
    asked = false;
    setTimeout(ask, message.wait);
  };
  const still = () => { if (!model.get("running")) paint(model.get("html")); };
  const run = () => {
    asked = false;
    ask();
    still(); // a last frame that was still being painted must not stay
  };
  const find = () => { // the panel around this view; it is attached to the page later than the view is made
    const root = el.closest(".run-panel");
    if (root) spoken = speak(root);
    else if (open) setTimeout(find, 200);
  };
  model.on("msg:custom", answer);
  model.on("change:html", still);
  model.on("change:running", run);
  still();
  ask();
  find();
  return () => {
    open = false;
    spoken?.disconnect();
    model.off("msg:custom", answer);
    model.off("change:html", still);
    model.off("change:running", run);
  };
}
export default { render };
