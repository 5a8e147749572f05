// Computes a study in a thread of its own. A message with settings starts it, and cancels what is computed before.

const PAUSE = 16; // ms of computation before the next message is read
const POST = 60; // ms between two results

const STUDIES = ["shattered-gradients", "signal-growth", "order-of-operations", "finite-step"];

let current = 0;

/** Let the worker read its messages. A timer would wait for 4 ms; a shared channel would wake the wrong computation. */
const pause = () =>
  new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });

onmessage = ({ data }) => {
  current = data.run;
  work(data).catch((error) => postMessage({ run: data.run, failure: error.message }));
};

async function work({ run, study, settings }) {
  if (!STUDIES.includes(study)) throw new Error(`there is no study ${study}`);
  const { compute } = await import(`./${study}.js`);
  if (run !== current) return;
  let [paused, posted] = [performance.now(), -Infinity];
  let charts = null;
  for (const found of compute(settings)) {
    charts = found ?? charts;
    const now = performance.now();
    if (found && now - posted >= POST) {
      postMessage({ run, charts: found(), done: false });
      posted = now;
    }
    if (now - paused >= PAUSE) {
      await pause();
      paused = performance.now();
      if (run !== current) return;
    }
  }
  if (run === current) postMessage({ run, charts: charts(), done: true });
}
