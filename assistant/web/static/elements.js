// What the elements of the page share: making nodes, and asking the server.
const nightschool = (() => {
  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value != null) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child != null));
    return node;
  }

  // Sends JSON and returns the reply; an error carries one sentence for the reader.
  async function post(address, body) {
    let response;
    try {
      response = await fetch(address, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    } catch {
      throw new Error("The server cannot be reached: nothing was saved, try again in a moment.");
    }
    const reply = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(reply.error || "This could not be saved (error " + response.status + "): try again.");
    return reply;
  }

  // A login that has ended shows on the next request: say so, and keep what is typed on the page.
  const asked = window.fetch;
  window.fetch = async (...request) => {
    const response = await asked(...request);
    if (response.status === 401 && !document.getElementById("ns-ended"))
      document.body.prepend(make("p", { id: "ns-ended", role: "alert" }, "Your login has ended. ", make("a", { href: "/login", target: "_blank" }, "Log in again"), ", then repeat what you did."));
    else if (response.ok && response.status === 200) document.getElementById("ns-ended")?.remove();
    return response;
  };

  // Gradio opens a closed list again on the way out of its box.
  document.addEventListener("keydown", (event) => {
    if (event.key === "Tab" && event.target.getAttribute?.("aria-expanded") === "false" && event.target.role === "combobox") event.stopPropagation();
  }, true);

  return { make, post };
})();
