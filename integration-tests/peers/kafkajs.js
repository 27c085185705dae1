// A member of a consumer group, by kafkajs: prints "partition offset" of each record it reads, and leaves on SIGTERM.
//
// kafkajs deals partitions by an assignor that only kafkajs knows, so this one does what every other client calls "range".
const { Kafka, logLevel, AssignerProtocol } = require('kafkajs')

const [server, group, topic] = process.argv.slice(2)

const range = ({ cluster }) => ({
  name: 'range',
  version: 0,
  protocol: ({ topics }) => ({
    name: 'range',
    metadata: AssignerProtocol.MemberMetadata.encode({ version: 0, topics }),
  }),
  assign: async ({ members, topics }) => {
    const ids = members.map(({ memberId }) => memberId).sort()
    return ids.map((memberId, at) => {
      const assignment = {}
      for (const topic of topics) {
        const partitions = cluster.findTopicPartitionMetadata(topic).map((it) => it.partitionId).sort((a, b) => a - b)
        const begin = (index) => Math.floor((partitions.length * index) / ids.length)
        assignment[topic] = partitions.slice(begin(at), begin(at + 1))
      }
      return { memberId, memberAssignment: AssignerProtocol.MemberAssignment.encode({ version: 0, assignment }) }
    })
  },
})

async function main() {
  const kafka = new Kafka({ clientId: 'kafkajs', brokers: [server], logLevel: logLevel.NOTHING })
  const consumer = kafka.consumer({ groupId: group, partitionAssigners: [range], heartbeatInterval: 500, maxWaitTimeInMs: 200 })
  process.on('SIGTERM', () => consumer.disconnect().then(() => process.exit(0)))
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  await consumer.run({
    eachMessage: async ({ partition, message }) => {
      process.stdout.write(`${partition} ${message.offset}\n`)
    },
  })
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
