//! What the fuzz targets share.

/// Expands `$each!` once for each request type that a broker can meet.
#[macro_export]
macro_rules! for_each_request {
    ($each:ident) => {
        $each! {
            ProduceRequest FetchRequest ListOffsetsRequest MetadataRequest OffsetCommitRequest
            OffsetFetchRequest FindCoordinatorRequest JoinGroupRequest HeartbeatRequest
            LeaveGroupRequest SyncGroupRequest DescribeGroupsRequest ListGroupsRequest
            SaslHandshakeRequest ApiVersionsRequest CreateTopicsRequest DeleteTopicsRequest
            DeleteRecordsRequest InitProducerIdRequest OffsetForLeaderEpochRequest
            AddPartitionsToTxnRequest AddOffsetsToTxnRequest EndTxnRequest WriteTxnMarkersRequest
            TxnOffsetCommitRequest DescribeAclsRequest CreateAclsRequest DeleteAclsRequest
            DescribeConfigsRequest AlterConfigsRequest AlterReplicaLogDirsRequest DescribeLogDirsRequest
            SaslAuthenticateRequest CreatePartitionsRequest CreateDelegationTokenRequest
            RenewDelegationTokenRequest ExpireDelegationTokenRequest DescribeDelegationTokenRequest
            DeleteGroupsRequest ElectLeadersRequest IncrementalAlterConfigsRequest
            AlterPartitionReassignmentsRequest ListPartitionReassignmentsRequest OffsetDeleteRequest
            DescribeClientQuotasRequest AlterClientQuotasRequest DescribeUserScramCredentialsRequest
            AlterUserScramCredentialsRequest VoteRequest BeginQuorumEpochRequest EndQuorumEpochRequest
            DescribeQuorumRequest AlterPartitionRequest UpdateFeaturesRequest EnvelopeRequest
            FetchSnapshotRequest DescribeClusterRequest DescribeProducersRequest
            BrokerRegistrationRequest BrokerHeartbeatRequest UnregisterBrokerRequest
            DescribeTransactionsRequest ListTransactionsRequest AllocateProducerIdsRequest
            ConsumerGroupHeartbeatRequest ConsumerGroupDescribeRequest ControllerRegistrationRequest
            GetTelemetrySubscriptionsRequest PushTelemetryRequest AssignReplicasToDirsRequest
            ListConfigResourcesRequest DescribeTopicPartitionsRequest ShareGroupHeartbeatRequest
            ShareGroupDescribeRequest ShareFetchRequest ShareAcknowledgeRequest AddRaftVoterRequest
            RemoveRaftVoterRequest UpdateRaftVoterRequest InitializeShareGroupStateRequest
            ReadShareGroupStateRequest WriteShareGroupStateRequest DeleteShareGroupStateRequest
            ReadShareGroupStateSummaryRequest DescribeShareGroupOffsetsRequest
            AlterShareGroupOffsetsRequest DeleteShareGroupOffsetsRequest
        }
    };
}
