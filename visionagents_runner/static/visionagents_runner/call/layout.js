// Three columns where there is room, tabs below that.

import { byId } from "./dom.js";
import { Tabs } from "./tabs.js";

const WIDE = matchMedia("(min-width: 1100px)");

export function layOut() {
  const tabs = new Tabs(byId("page-tabs"));
  tabs.select("conversation");
  const panels = document.querySelectorAll(".panel");
  const adapt = () => {
    for (const panel of panels) {
      // Only where there are tabs is it a panel of one.
      if (WIDE.matches) panel.removeAttribute("role");
      else panel.setAttribute("role", "tabpanel");
    }
  };
  WIDE.addEventListener("change", adapt);
  adapt();
  return tabs;
}
