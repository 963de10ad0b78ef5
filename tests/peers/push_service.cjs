// The push service of the npm package web-push-testing on loopback; says "serves PORT" once it listens.
//
// Its own program listens on all interfaces.
const {createServer} = require('node:http');
const TestingServer = require('web-push-testing/src/server.js');
const {PushApiModel} = require('web-push-testing/src/PushApiModel.js');

const model = new PushApiModel();
const service = new TestingServer(model, 0);
service.setRequestHandlers();
const server = createServer(service._app);
server.listen(0, '127.0.0.1', () => {
  const {port} = server.address();
  model.notifyUrl = `http://127.0.0.1:${port}/notify/`;
  console.log(`serves ${port}`);
});
