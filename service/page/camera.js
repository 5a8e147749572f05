// A photo from the camera. Browsers allow it for pages over https, and for pages of this machine over http.

import { byId, show } from "./dom.js";

/** Offer the camera if there is one; `onPhoto(file)` gets the photo. */
export async function offer(onPhoto) {
  if (!navigator.mediaDevices?.getUserMedia) return;
  const devices = await navigator.mediaDevices.enumerateDevices();
  if (!devices.some((device) => device.kind === "videoinput")) return;
  const [dialog, video] = [byId("camera-dialog"), byId("video")];
  byId("camera").addEventListener("click", () => open(dialog, video));
  byId("shoot").addEventListener("click", async () => {
    onPhoto(await shoot(video));
    dialog.close();
  });
  byId("camera-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
  });
  show(byId("camera"), true);
}

async function open(dialog, video) {
  dialog.showModal();
  byId("shoot").disabled = true;
  byId("camera-title").textContent = "Take a photo";
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    await video.play();
    byId("shoot").disabled = false;
  } catch {
    byId("camera-title").textContent = "The camera cannot be used: allow it for this page";
  }
}

async function shoot(video) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  return new File([blob], "photo.jpg", { type: "image/jpeg" });
}
