// A browser starts no worker for a page that lies on disk, and the search of the site runs in one. There this file puts
// a stand-in in its place: the worker's script runs in a hidden frame, and messages go to and fro.
"use strict";
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      const script = new URL(url, document.baseURI).href.replaceAll('"', "%22");
      frame.srcdoc =
        '<script>const native = self.postMessage.bind(self);' +
        'self.postMessage = (said, to) => (to ? native(said, to) : parent.postMessage(said, "*"));' +
        'self.importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((done) => {' +
        'const one = document.createElement("script"); one.src = url; one.onload = done; document.head.append(one);' +
        '})), Promise.resolve());<\/script><script src="' + script + '"><\/script>';
      window.addEventListener("message", (event) => {
        if (event.source !== frame.contentWindow) return;
        const heard = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(heard);
        if (this.onmessage) this.onmessage(heard);
      });
      frame.addEventListener("load", () => {
        this.ready = true;
        for (const said of this.waiting) frame.contentWindow.postMessage(said, "*");
      });
      const place = () => document.body.append(frame);
      if (document.body) place();
      else addEventListener("DOMContentLoaded", place);
      this.frame = frame;
    }

    postMessage(said) {
      if (this.ready) this.frame.contentWindow.postMessage(said, "*");
      else this.waiting.push(said);
    }

    terminate() {
      this.frame.remove();
    }
  };
}
