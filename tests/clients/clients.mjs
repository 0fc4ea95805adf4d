// The Node clients, one a run, each used as its own manual says. Prints the reply and how the stream arrived.
// Never names the CA: Node reads NODE_EXTRA_CA_CERTS. An error is printed with its causes and the exit status is 1.
//
// usage: node clients.mjs axios|undici|genai|genai_alone
//
// PROXY_SOCKET: the path of a UNIX socket to connect to for axios instead of the proxy's host and port.

import { readFileSync } from 'node:fs';

const MODEL = 'gemini-2.5-flash';
const PROXY = process.env.HTTPS_PROXY;
const URL = `https://${process.env.API_HOST ?? 'generativelanguage.googleapis.com'}/v1beta/models/${MODEL}`;
const UNARY = `${URL}:generateContent`;
const STREAM = `${URL}:streamGenerateContent?alt=sse`;
const TIMEOUT_MS = 15_000;
// What to present to a proxy with TLS.
const { CLIENT_CERTIFICATE, CLIENT_KEY } = process.env;
const OWN = CLIENT_CERTIFICATE ? { cert: readFileSync(CLIENT_CERTIFICATE), key: readFileSync(CLIENT_KEY) } : {};
const SOCKET = process.env.PROXY_SOCKET ? { path: process.env.PROXY_SOCKET } : {};

function showReply(body) {
  console.log('reply:', body.candidates[0].content.parts[0].text);
}

async function showStream(events) {
  const arrivals = [];
  for await (const _ of events) arrivals.push(performance.now());
  const spread = arrivals.length ? Math.round(arrivals.at(-1) - arrivals[0]) : 0;
  console.log(`stream: ${arrivals.length} events over ${spread} ms`);
}

async function* serverSentEvents(chunks) {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const chunk of chunks) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split('\n');
    rest = lines.pop();
    for (const line of lines) if (line.startsWith('data:')) yield line;
  }
}

async function axios() {
  const { default: axios } = await import('axios');
  const { HttpsProxyAgent } = await import('https-proxy-agent');
  const options = { httpsAgent: new HttpsProxyAgent(PROXY, { ...OWN, ...SOCKET }), proxy: false, timeout: TIMEOUT_MS };
  showReply((await axios.post(UNARY, {}, options)).data);
  await showStream(serverSentEvents((await axios.post(STREAM, {}, { ...options, responseType: 'stream' })).data));
}

async function undici() {
  const { fetch, ProxyAgent } = await import('undici');
  const dispatcher = new ProxyAgent({ uri: PROXY, proxyTls: OWN });
  const post = { method: 'POST', body: '{}', dispatcher, signal: AbortSignal.timeout(TIMEOUT_MS) };
  showReply(await (await fetch(UNARY, post)).json());
  await showStream(serverSentEvents((await fetch(STREAM, post)).body));
  await dispatcher.close();
}

// @google/genai calls Node's own fetch, which does not read HTTPS_PROXY by itself: the proxy has to be its global dispatcher.
async function genai() {
  const { ProxyAgent, setGlobalDispatcher } = await import('undici');
  setGlobalDispatcher(new ProxyAgent(PROXY));
  await genai_alone();
}

// With NODE_USE_ENV_PROXY=1 Node 24 and later use HTTPS_PROXY.
async function genai_alone() {
  const { GoogleGenAI } = await import('@google/genai');
  const { models } = new GoogleGenAI({ apiKey: 'fake', httpOptions: { timeout: TIMEOUT_MS } });
  const ping = { model: MODEL, contents: 'ping' };
  console.log('reply:', (await models.generateContent(ping)).text);
  await showStream(await models.generateContentStream(ping));
}

function explain(error) {
  const status = error.response ? ` (${error.response.status} ${error.response.statusText})` : '';
  return `${error.message}${status}${error.cause ? `: ${explain(error.cause)}` : ''}`;
}

try {
  await { axios, undici, genai, genai_alone }[process.argv[2]]();
  process.exit(0); // connections kept alive would hold the process
} catch (error) {
  console.error(explain(error));
  process.exit(1);
}
