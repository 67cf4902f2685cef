// Shows the server the token that stands behind the # of the address, where no log has it.

const token = location.hash.slice(1);
const form = document.querySelector("form");

if (token && form) {
  history.replaceState(null, "", location.pathname + location.search);
  form.elements.token.value = token;
  form.requestSubmit();
}
