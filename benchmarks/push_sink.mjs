// Takes every push: HTTP/1.1 on one port, HTTP/2 with TLS on another; says "serves PORT PORT" once it listens.
//
//   node push_sink.mjs '{"key": PEM, "cert": PEM}'
import http from 'node:http';
import http2 from 'node:http2';

const options = JSON.parse(process.argv[2]);
const TOKEN = JSON.stringify({access_token: 't', expires_in: 3599});
const TAKEN = JSON.stringify({name: 'projects/p/messages/1'});

const plain = http.createServer({keepAliveTimeout: 60_000}, (request, response) => {
  request.resume();
  request.on('end', () => {
    if (request.url.startsWith('/web/')) response.writeHead(201, {'content-length': 0}).end();
    else response.writeHead(200).end(request.url === '/token' ? TOKEN : TAKEN);
  });
});
const secret = http2.createSecureServer(options);
secret.on('stream', (stream) => {
  stream.resume();
  stream.on('end', () => stream.respond({':status': 200}, {endStream: true}));
});

plain.listen(0, '127.0.0.1', () => secret.listen(0, '127.0.0.1', () => {
  console.log(`serves ${plain.address().port} ${secret.address().port}`);
}));
