// The dashboard: follows the coordinator's events and shows what they say. Nothing on this page is
// invented; what has not been measured is a dash. docs/api.md describes what arrives.

import { Page } from "./page/page.js";

Object.assign(window, { page: new Page() }); // for the console and the tests
